"""Commands that show rows and the nearest training documents: ``kedro rows``, ``kedro audit``."""
