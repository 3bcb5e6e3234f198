def show_program(p):
    return ""
