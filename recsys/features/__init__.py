"""What is known of users, items and events: schema, log, splits, batches, negatives."""
