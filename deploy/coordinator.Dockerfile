# A coordinator: docker build -f deploy/coordinator.Dockerfile -t tacit-coordinator .
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# cpu: PyTorch without CUDA, where there is such a build, and otherwise whatever the package index has.
ARG TORCH=cpu
# Another package index for PyTorch alone.
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
# The extra `agent` is for the files that recipes name as public samples: Parquet, pictures.
RUN /opt/tacit/bin/pip wheel --no-deps --wheel-dir /dist . \
 && /opt/tacit/bin/pip install --constraint constraints.txt \
      "tacit[agent,coordinator,postgresql,serve] @ file://$(ls /dist/tacit-*.whl)"

FROM ${PYTHON}
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/tacit --shell /usr/sbin/nologin tacit \
 && chmod 0700 /var/lib/tacit
COPY --from=build /opt/tacit /opt/tacit
COPY --chmod=0755 deploy/entrypoint.sh /usr/local/bin/tacit-entrypoint
ENV PATH=/opt/tacit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TACIT_COORDINATOR=/var/lib/tacit/coordinator
USER 10001:10001
WORKDIR /var/lib/tacit
VOLUME /var/lib/tacit
EXPOSE 9092
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
  CMD tacit-entrypoint coordinator status --format json | grep -q '"pid": [0-9]'
STOPSIGNAL SIGTERM
ENTRYPOINT ["tacit-entrypoint"]
CMD ["coordinator", "up"]
