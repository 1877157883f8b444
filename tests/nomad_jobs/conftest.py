from nomad_jobs.workspaces import migrated, untouched, workspace

__all__ = ["migrated", "untouched", "workspace"]
