# A data owner's agent: docker build -f deploy/agent.Dockerfile -t tacit-agent .
# For an NVIDIA GPU: --build-arg TORCH=cuda, and run it with --gpus.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# cpu: PyTorch without CUDA, where there is such a build. cuda: the build that brings CUDA along.
ARG TORCH=cpu
# Another package index for PyTorch alone, for another CUDA.
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/tacit
COPY constraints.txt ./
RUN index=${TORCH_INDEX:+--index-url $TORCH_INDEX}; \
    if [ "$TORCH" = cpu ]; then /opt/tacit/bin/pip install $index 'torch==2.13.0+cpu' && exit 0; fi; \
    /opt/tacit/bin/pip install $index --constraint constraints.txt torch
# The links in src/tacit lead into the five parts: without them all the build refuses to go on.
COPY LICENSE README.md pyproject.toml setup.py ./
COPY src src
COPY client client
COPY models models
COPY privacy privacy
COPY server server
COPY simulations simulations
RUN /opt/tacit/bin/pip wheel --no-deps --wheel-dir /dist . \
 && /opt/tacit/bin/pip install --constraint constraints.txt \
      "tacit[agent,postgresql] @ file://$(ls /dist/tacit-*.whl)"

FROM ${PYTHON}
RUN useradd --system --uid 10002 --create-home --home-dir /var/lib/tacit --shell /usr/sbin/nologin tacit \
 && chmod 0700 /var/lib/tacit
COPY --from=build /opt/tacit /opt/tacit
ENV PATH=/opt/tacit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TACIT_AGENT=/var/lib/tacit/agent
USER 10002:10002
WORKDIR /var/lib/tacit
VOLUME /var/lib/tacit
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s --retries=3 \
  CMD tacit agent status --format json | grep -q '"running": true'
STOPSIGNAL SIGTERM
ENTRYPOINT ["tacit"]
CMD ["agent", "start"]
