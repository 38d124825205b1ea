"""What makes the documentation: the site's hook, the recipe's table, the architecture's diagram."""
