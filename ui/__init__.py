"""What a person touches: the `workbench` command and the main job."""
