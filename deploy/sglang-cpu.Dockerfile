# The released SGLang with the plugin and our CPU kernels, for machines without a GPU. Built from the top directory.
# With PyPI alone torch brings its CUDA libraries (5.7 GB); a pip.conf that names an index with CPU wheels avoids that.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN python3 -m venv /opt/turbospec
ENV PATH=/opt/turbospec/bin:$PATH
WORKDIR /src
COPY requirements requirements
# From what seldom changes to what often does: torch, what SGLang needs, SGLang, the plugin's dependencies, the plugin.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install -c requirements/constraints.txt -r requirements/torch.txt
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install -c requirements/constraints.txt -r requirements/engine-cpu.txt
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps -c requirements/constraints.txt -r requirements/no-deps.txt
COPY pyproject.toml ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    touch README.md && pip install -c requirements/constraints.txt ".[engine,models]"
COPY . .
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall .

FROM ${PYTHON_IMAGE}
# The kernels, and SGLang's NGRAM drafter, are compiled at their first start, for the processor that runs them.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 turbospec \
    && useradd --uid 10001 --gid 10001 --home-dir /var/cache/turbospec/home --no-create-home turbospec \
    && install -d -o 10001 -g 10001 -m 0700 /run/turbospec /var/cache/turbospec /var/cache/turbospec/home
COPY --from=build /opt/turbospec /opt/turbospec
ENV PATH=/opt/turbospec/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 30000
CMD ["python3", "-m", "sglang_patch.launch", "--help"]
