from multibot_plugin.cli import main

main()
