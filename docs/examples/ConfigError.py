import bayesprior as bp

try:
    bp.get_model("small_conf")
except bp.ConfigError as error:
    print(error)
