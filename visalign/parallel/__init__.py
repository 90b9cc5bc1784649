"""The one place that knows how several processes share a network: engines, shards, shared work, and who has gone."""
