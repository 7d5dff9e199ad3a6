"""What keeps two archivers, and two histories of one database, apart."""
