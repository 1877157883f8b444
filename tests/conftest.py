"""What every test may use."""

pytest_plugins = ["cluster_fixture", "golden_files"]
