package worker

import (
	"context"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Access tells how to reach the server, from the environment: WORKERQUEUE_CACERT (a PEM file; with it TLS),
// WORKERQUEUE_SERVERNAME (where the certificate has another name than the address) and WORKERQUEUE_TOKEN.
func Access() ([]grpc.DialOption, error) {
	transport := insecure.NewCredentials()
	if cacert := os.Getenv("WORKERQUEUE_CACERT"); cacert != "" {
		var err error
		transport, err = credentials.NewClientTLSFromFile(cacert, os.Getenv("WORKERQUEUE_SERVERNAME"))
		if err != nil {
			return nil, err
		}
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(transport)}
	if token := os.Getenv("WORKERQUEUE_TOKEN"); token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	return options, nil
}

type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

// RequireTransportSecurity makes gRPC refuse to send the token in plain text.
func (bearer) RequireTransportSecurity() bool { return true }
