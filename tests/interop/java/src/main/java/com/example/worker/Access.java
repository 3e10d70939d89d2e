package com.example.worker;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;

/**
 * How to reach the server, from the environment: WORKERQUEUE_CACERT (a PEM file; with it TLS) and
 * WORKERQUEUE_TOKEN.
 */
final class Access {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private Access() {}

  static ManagedChannelBuilder<?> channel(String address) {
    String cacert = System.getenv("WORKERQUEUE_CACERT");
    String token = System.getenv("WORKERQUEUE_TOKEN");
    if (token != null && cacert == null) {
      throw new IllegalStateException(
          "a token is not sent in plain text: set WORKERQUEUE_CACERT");
    }
    ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(address, transport(cacert));
    if (token != null) {
      Metadata headers = new Metadata();
      headers.put(AUTHORIZATION, "Bearer " + token);
      builder.intercept(MetadataUtils.newAttachHeadersInterceptor(headers));
    }
    return builder;
  }

  private static ChannelCredentials transport(String cacert) {
    if (cacert == null) {
      return InsecureChannelCredentials.create();
    }
    try {
      return TlsChannelCredentials.newBuilder().trustManager(new File(cacert)).build();
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
