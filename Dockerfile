# Weir as one image: an unprivileged user, a root file system that may be read-only, and one volume, /data.
#   docker build -t weir --build-arg TORCH_INDEX=… .   torch for CPUs, from PyTorch's own index of such builds: its
#                                                      address stands on PyTorch's page "Get Started", under CPU
#   docker build -t weir .                             torch as pip finds it: for Linux on x86-64 that is a build with
#                                                      CUDA, which runs on CPUs too and is larger by gigabytes

# What is to be installed: a layer below is made anew only when its own line of these changes.
FROM python:3.11-slim AS wanted
WORKDIR /wanted
COPY constraints.txt pyproject.toml ./
RUN sed -n 's/^torch==//p' constraints.txt >torch \
 && python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], *project["optional-dependencies"]["data"], sep="\n")' >all \
 && grep -v matplotlib all >requirements.txt

FROM python:3.11-slim AS dependencies
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /source
# The tools that build stay in a virtual environment of their own, which the image does not get.
RUN python -m venv /opt/tools \
 && /opt/tools/bin/pip install -q setuptools==80.9.0 \
 && python -m venv --without-pip /opt/weir
COPY --from=wanted /wanted/torch ./
RUN install=(/opt/tools/bin/pip --python /opt/weir/bin/python install -q); \
    if [ -n "$TORCH_INDEX" ]; then "${install[@]}" --no-deps --index-url "$TORCH_INDEX" "torch==$(<torch)+cpu"; \
    else "${install[@]}" "torch==$(<torch)"; fi
COPY --from=wanted /wanted/requirements.txt /wanted/constraints.txt ./
RUN /opt/tools/bin/pip --python /opt/weir/bin/python install -q -c constraints.txt -r requirements.txt
WORKDIR /opt/weir/lib/python3.11/site-packages
# What only programs in C++ and tests need.
RUN rm -rf torch/include torch/test torch/bin/*[Tt]est* torch/bin/protoc* pyarrow/include pyarrow/tests \
 && find scipy sklearn numpy sympy -name tests -type d -prune -exec rm -rf {} +

FROM dependencies AS package
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
RUN /opt/tools/bin/pip wheel -q --no-deps --no-build-isolation -w /wheels . \
 && /opt/tools/bin/pip --python /opt/weir/bin/python install -q --no-deps --root /staged /wheels/weir-*.whl

FROM python:3.11-slim
ARG TORCH_INDEX=
LABEL org.opencontainers.image.title="Weir" \
      org.opencontainers.image.description="Online learning behind a guard that holds back what is suspected" \
      org.opencontainers.image.licenses="MIT" \
      weir.torch="${TORCH_INDEX:+cpu}"
RUN groupadd --gid 10001 weir \
 && useradd --uid 10001 --gid weir --no-create-home --home-dir /data --shell /usr/sbin/nologin weir \
 && install -d -o weir -g weir -m 0750 /data \
 && install -d -o weir -g weir -m 0755 /run/weir-secrets
COPY --from=dependencies /opt/weir /opt/weir
COPY --from=package /staged/opt/weir /opt/weir
COPY deploy/init/*.sh /opt/weir/init/
ENV PATH=/opt/weir/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    WEIR_DATA=/data \
    WEIR_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8790
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('WEIR_PORT') or 8790}/health/ready\", timeout=4)"]
ENTRYPOINT ["weir"]
CMD ["serve"]
