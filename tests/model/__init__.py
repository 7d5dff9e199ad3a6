"""The archive's protocol as a model that can be searched; docs/model.md tells what it covers."""
