import bayesprior as bp

try:
    bp.get_data("digitz")
except bp.BayesPriorError as error:
    print(error)  # with the nearest name that there is
