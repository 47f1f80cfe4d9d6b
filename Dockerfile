# The image of prefect.yaml's docker and kubernetes entries: the locked libraries, and Nightjar as it is at /nightjar.
# There a night's container has its workspace mounted, a checkout whose code takes the place of the image's.
#
#     docker build --tag registry.example.org/nightjar:latest .
FROM python:3.11-slim

# Nights are recorded in git, in a checkout that belongs to whoever made it.
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
  && git config --system --add safe.directory /nightjar

WORKDIR /nightjar
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
COPY requirements.lock ./
COPY setup ./setup
RUN python setup/install.py -r requirements.lock
COPY pyproject.toml README.md LICENSE dvc.yaml params.yaml ./
COPY flows ./flows
COPY tasks ./tasks
COPY rlhf ./rlhf
RUN python setup/install.py --no-deps --no-build-isolation -e . && python setup/bytecode.py flows tasks rlhf
