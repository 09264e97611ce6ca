"""Full-catalogue ranking metrics, their intervals and their pictures."""
