"""The commands for whoever runs Atlas: settings, database, doctor, health, tracked errors."""
