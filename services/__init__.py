"""The processes of OpenToken, one package each; `python -m services.<name>` runs one."""
