// How to reach the server, from the environment: WORKERQUEUE_CACERT (a PEM file; with it TLS) and
// WORKERQUEUE_TOKEN.

import { type ChannelCredentials, credentials, Metadata } from "@grpc/grpc-js";
import { readFileSync } from "node:fs";

export function access(): ChannelCredentials {
  const { WORKERQUEUE_CACERT: cacert, WORKERQUEUE_TOKEN: token } = process.env;
  if (!cacert) {
    if (token) throw new Error("a token is not sent in plain text: set WORKERQUEUE_CACERT");
    return credentials.createInsecure();
  }
  const tls = credentials.createSsl(readFileSync(cacert));
  if (!token) return tls;
  const bearer = credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${token}`);
    done(null, metadata);
  });
  return credentials.combineChannelCredentials(tls, bearer);
}
