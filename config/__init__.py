"""What a user says: settings, their file, the narrowing of a command."""
