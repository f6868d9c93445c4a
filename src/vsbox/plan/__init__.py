"""From policy to plan: pure, the same answer on every machine for the same facts."""
