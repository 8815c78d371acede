# Image with harness, torch with CUDA, and the extras gpu, parquet and zoo. 8 GB.
#
#   docker build -t harness .            also: podman build, buildah bud
#   docker run --rm -v "$PWD/work:/work" harness run demo
#
# On a GPU (NVIDIA Container Toolkit): docker run --gpus all --shm-size 8g ...
# The folder /work keeps raw data, betons and runs. It must be writable for the user of the
# container: --user "$(id -u):$(id -g)" gives files your own user.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        g++ libjpeg-dev libopencv-dev libturbojpeg0-dev pkg-config python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python3 -m venv /opt/harness \
    && /opt/harness/bin/pip install -q --no-cache-dir -c /src/constraints.txt '/src[gpu,parquet,zoo]'

FROM ${BASE}
# OpenCV and libjpeg-turbo at run time; g++ and Python's headers serve torch.compile.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        g++ libgl1 libglib2.0-0 libjpeg62-turbo libopencv-core406 libopencv-imgcodecs406 \
        libopencv-imgproc406 libturbojpeg0 python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/harness /opt/harness
ENV PATH=/opt/harness/bin:$PATH \
    HARNESS_RAW=/work/raw HARNESS_DATA=/work/data HARNESS_RUNS=/work/runs \
    XDG_CACHE_HOME=/work/.cache NUMBA_CACHE_DIR=/work/.cache/numba
WORKDIR /work
ENTRYPOINT ["harness"]
CMD ["--help"]
