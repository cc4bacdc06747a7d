"""What scripts/soak and scripts/pd-faults are made of: processes, hosts, requests with known answers, deployments."""
