# The project with the environment of envs/core.txt, for machines without a GPU:
#
#     docker build -t dpg .
#     docker run --name study dpg make tiny
#     docker cp study:/dpg/results/tiny results/tiny
#
# The image takes a CPU build of PyTorch if pip can find one:
#     docker build --build-arg PIP_EXTRA_INDEX_URL=<an index with CPU builds> -t dpg .
FROM python:3.11-slim-bookworm

# git: a run records the commit. make: the targets. Their versions are those of the Debian release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 dpg \
    && mkdir /dpg \
    && chown 1000:1000 /dpg

USER 1000:1000
WORKDIR /dpg

# The packages are a layer of their own, which a change of the code does not make again.
ARG PIP_EXTRA_INDEX_URL=""
COPY --chown=1000:1000 envs/core.txt envs/core.txt
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir -r envs/core.txt

COPY --chown=1000:1000 . .
RUN make .venv

ENV PATH=/dpg/.venv/bin:$PATH
CMD ["make", "help"]
