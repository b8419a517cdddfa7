"""What ``make gpu`` runs: everything that waits for a GPU, in parts that go on where they were stopped."""
