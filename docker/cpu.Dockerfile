# The package on a CPU, with the versions of constraints.txt. From the root of the repository:
#
#   docker build -f docker/cpu.Dockerfile -t openba_jax .
#   docker run --rm -it -v "$PWD/runs:/openba_jax/runs" openba_jax
#
# No test builds this image.
FROM python:3.12-slim

WORKDIR /openba_jax
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[serve,data,gguf]'
CMD ["bash"]
