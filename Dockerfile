# Embeds recordings on processors:
#     docker build -t vggish .
#     docker run --rm -v "$PWD:/data" vggish embed recordings/ -o embeddings/
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir "/src[parquet]" && rm -r /src
RUN useradd --uid 1000 --create-home vggish
USER 1000
# The published weights are downloaded once if this folder is a volume.
ENV VGGISH_KERAS_HOME=/home/vggish/weights
WORKDIR /data
ENTRYPOINT ["vggish"]
CMD ["--help"]
