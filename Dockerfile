# The web service on a CPU, with ONNX Runtime only, no MindSpore or PyTorch. To build and run it, see docs/package.md.
FROM python:3.11-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /project
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /requirements
COPY requirements-onnx.txt requirements-serve.txt ./
RUN pip install --no-cache-dir -r requirements-onnx.txt -r requirements-serve.txt
COPY --from=build /wheels /wheels
# --no-deps: the wheel's dependencies include MindSpore.
RUN pip install --no-cache-dir --no-deps /wheels/*.whl && useradd --uid 10001 --create-home centernet
USER 10001
WORKDIR /home/centernet
EXPOSE 8000
# The check requests the container itself, so it ignores a proxy set in the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["centernet-serve", "--onnx", "/models/centernet.onnx", "--host", "0.0.0.0", "--port", "8000"]
