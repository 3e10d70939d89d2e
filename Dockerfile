# The server with its command line. Every step is a plain one that a bare Debian with Python 3.11 or
# newer can do too: `scripts/prove-dockerfile` does them there, without a Docker engine.
#
# To pin the base by content as well: --build-arg BASE=python:3.12.11-slim-bookworm@sha256:...
ARG BASE=python:3.12.11-slim-bookworm

FROM ${BASE} AS build

WORKDIR /src
COPY requirements requirements
RUN python3 -m venv /opt/build \
  && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement requirements/build.txt \
  && python3 -m venv /opt/workerqueue \
  && /opt/workerqueue/bin/pip install --no-cache-dir --require-hashes \
    --requirement requirements/image.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY proto proto
COPY client_py client_py
COPY server server
# What runs later needs no pip, and what is not there cannot be misused.
RUN /opt/build/bin/pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /dist . \
  && /opt/workerqueue/bin/pip install --no-cache-dir --no-deps /dist/*.whl \
  && /opt/workerqueue/bin/python -m pip uninstall --yes pip


FROM ${BASE}

# A fixed number, so that a volume's owner can be set from outside.
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/workerqueue workerqueue
COPY --from=build /opt/workerqueue /opt/workerqueue
ENV PATH=/opt/workerqueue/bin:$PATH \
  PYTHONUNBUFFERED=1 \
  WORKERQUEUE_ADDRESS=0.0.0.0:50551 \
  WORKERQUEUE_DATA_DIR=/var/lib/workerqueue/data

USER 10001
WORKDIR /var/lib/workerqueue
# Without WORKERQUEUE_DSN the server keeps its own PostgreSQL here.
VOLUME /var/lib/workerqueue
EXPOSE 50551
STOPSIGNAL SIGTERM
# Exits 0 if grpc.health.v1 answers SERVING, which it does only while the database answers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["workerqueue", "health"]
ENTRYPOINT ["workerqueue"]
CMD ["serve"]
