# Installs sp-wrapper on minions:
#
#   salt '*' state.apply saltpeter.wrapper
#
# Copy this directory (saltpeter/) into a file root of the master (/srv/salt), and the wrapper beside this file as
# files/sp-wrapper, or as files/sp-wrapper-<cpuarch> for each architecture of the fleet (x86_64, aarch64, ...).
# A running wrapper is not disturbed: Salt replaces the file by a rename.
#
# Pillar, both optional:
#   saltpeter:
#     wrapper_path: /usr/bin/sp-wrapper          # then set default_wrapper_path in saltpeter_config to the same
#     wrapper_logdir: /var/log/sp_wrapper        # then set default_wrapper_logdir to the same

{%- set path = salt['pillar.get']('saltpeter:wrapper_path', '/usr/bin/sp-wrapper') %}
{%- set logdir = salt['pillar.get']('saltpeter:wrapper_logdir', '/var/log/sp_wrapper') %}

saltpeter-wrapper:
  file.managed:
    - name: {{ path }}
    - source:
      - salt://saltpeter/files/sp-wrapper-{{ grains['cpuarch'] }}
      - salt://saltpeter/files/sp-wrapper
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True

saltpeter-wrapper-logdir:
  file.directory:
    - name: {{ logdir }}
    - user: root
    - group: root
    - mode: '0750'
    - makedirs: True

# it must run here: a wrong architecture shows now, not when the first job is due; without settings it only says
# what it misses
saltpeter-wrapper-runs:
  cmd.run:
    - name: {{ path }} 2>&1 | grep SP_WEBSOCKET_URL
    - onchanges:
      - file: saltpeter-wrapper
