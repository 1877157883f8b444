"""Every state machine: its table of legal moves, and for each state what ends it. The page about them is drawn from that."""
