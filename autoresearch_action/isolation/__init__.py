"""What a candidate may reach: sandboxes, processes and their limits, devices, secrets."""
