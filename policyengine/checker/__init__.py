"""AST to kernel: names are resolved, types checked, patterns compared, and every rule lowered."""
