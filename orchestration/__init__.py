"""When and where things run: studies, definitions, jobs, resources and the command line."""
