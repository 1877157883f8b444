"""Brings each stack to where it should be: claim, observe, plan (pure), apply, save."""
