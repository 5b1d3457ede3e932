"""Pipelines on an Apache Flink cluster whose machines die."""
