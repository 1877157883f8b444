"""What holds back destructive work when what is seen may be wrong."""
