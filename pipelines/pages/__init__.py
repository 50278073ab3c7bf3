"""What the pages that jobs write share: how figures look, and how templates are rendered."""
