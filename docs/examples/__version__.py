import bayesprior as bp

print(bp.__version__)
