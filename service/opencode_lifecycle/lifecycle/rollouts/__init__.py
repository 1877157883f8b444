"""Moving many stacks at a pace: what a rollout would do, what it does next, and who does it."""
