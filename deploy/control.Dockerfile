# The control service and the command line. Built from the top directory:
#   docker build -f deploy/control.Dockerfile .
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN python3 -m venv /opt/turbospec
ENV PATH=/opt/turbospec/bin:$PATH
WORKDIR /src
COPY requirements/constraints.txt requirements/constraints.txt
COPY pyproject.toml ./
# An empty project with the same dependencies: this layer lasts until a pin changes.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    touch README.md && pip install -c requirements/constraints.txt ".[service,cli]"
COPY . .
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall .

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 turbospec \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/turbospec --no-create-home turbospec \
    && install -d -o 10001 -g 10001 -m 0700 /run/turbospec /var/lib/turbospec
COPY --from=build /opt/turbospec /opt/turbospec
ENV PATH=/opt/turbospec/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 9464
CMD ["python3", "-m", "control_service"]
