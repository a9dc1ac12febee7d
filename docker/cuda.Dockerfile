# The package on an NVIDIA GPU: jax brings CUDA's libraries, the host its driver (525 or newer) and the
# NVIDIA Container Toolkit. From the root of the repository:
#
#   docker build -f docker/cuda.Dockerfile -t openba_jax:cuda .
#   docker run --rm -it --gpus all -v "$PWD/runs:/openba_jax/runs" openba_jax:cuda
#
# No test builds this image.
FROM python:3.12-slim

WORKDIR /openba_jax
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[cuda,serve,data,gguf]'
# The device it runs on comes first: a container without the GPU would run on the CPU, and slowly.
CMD ["bash", "-c", "python -c 'import jax; print(jax.devices())' && exec bash"]
