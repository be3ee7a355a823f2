"""The five Kedro pipelines, one package each; none imports another."""
