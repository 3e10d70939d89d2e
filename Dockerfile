# The server. The steps of both stages also work on a bare Debian with Python 3.11 or newer: a build
# environment makes a wheel, and a virtual environment in /opt/workerqueue receives it.
FROM python:3.12-slim AS build

WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY proto proto
COPY client_py client_py
COPY server server
RUN python3 -m venv /opt/build \
  && /opt/build/bin/pip install --no-cache-dir 'build>=1.2,<2' \
  && /opt/build/bin/python -m build --wheel --outdir /dist \
  && python3 -m venv /opt/workerqueue \
  && /opt/workerqueue/bin/pip install --no-cache-dir "$(ls /dist/*.whl)[server,embedded]"


FROM python:3.12-slim

# A fixed number, so that a volume's owner can be set from outside.
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/workerqueue workerqueue
COPY --from=build /opt/workerqueue /opt/workerqueue
ENV PATH=/opt/workerqueue/bin:$PATH \
  PYTHONUNBUFFERED=1 \
  WORKERQUEUE_ADDRESS=0.0.0.0:50551 \
  WORKERQUEUE_DATA_DIR=/var/lib/workerqueue/data

USER workerqueue
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
