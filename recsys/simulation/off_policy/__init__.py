"""What a policy would have earned, estimated from rounds that another policy logged."""
