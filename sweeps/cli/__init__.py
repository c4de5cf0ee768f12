"""The command line `tokenlaw`. Nothing else imports this room."""
