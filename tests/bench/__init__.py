"""
The figures of `make bench`: ratios between our service and the barest program that does the same, in alternating runs.

    PYTHONPATH=tests .venv/bin/python -m bench [hot] [cold] [start] [fleet] [visibility] [lists] [planning] [rollout]
                                                 [interruption]
"""
