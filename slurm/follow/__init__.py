"""Follow what was launched: status, queue, logs, cancelling."""
