# The released SGLang image with the plugin beside it; nothing of SGLang is changed. Built from the top directory.
ARG SGLANG_IMAGE=lmsysorg/sglang:v0.5.23

FROM ${SGLANG_IMAGE} AS wheel
# hadolint ignore=DL3002
USER 0
WORKDIR /src
COPY . .
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip wheel --no-deps --wheel-dir /wheels .

FROM ${SGLANG_IMAGE}
USER 0
COPY --from=wheel /wheels /wheels
# Its Python is the system's own, as it may be in a container. The last line fails the build if SGLang would not find
# the plugin.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install "$(echo /wheels/*.whl)[engine]" \
    && rm -r /wheels \
    && python3 -c "from importlib.metadata import entry_points; entry_points(group='sglang.srt.plugins')['turbospec'].load()"
RUN install -d -o 10001 -g 10001 -m 0700 /run/turbospec /var/cache/turbospec /var/cache/turbospec/home
USER 10001:10001
EXPOSE 30000
CMD ["python3", "-m", "sglang.launch_server", "--help"]
