"""What is wanted: the policy of a box, pure and validated. No module here looks at the machine."""
