"""All SQL of Atlas, one module an aggregate. Repositories take a session and never commit."""
