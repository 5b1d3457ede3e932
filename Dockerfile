# Embeds recordings on the CPU. The volume vggish-weights keeps the published weights, which the first run downloads:
#     docker build -t vggish .
#     docker run --rm -v vggish-weights:/home/vggish/weights -v "$PWD:/data" vggish embed recordings/ -o embeddings/
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir "/src[parquet]" && rm -r /src
RUN useradd --uid 1000 --create-home vggish
USER 1000
RUN mkdir /home/vggish/weights
ENV VGGISH_KERAS_HOME=/home/vggish/weights
WORKDIR /data
ENTRYPOINT ["vggish"]
CMD ["--help"]
